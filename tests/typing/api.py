"""The public interface as a caller writes it: read by the type checker, never run."""

from decimal import Decimal

from kimiya import (
    App,
    Call,
    CallContext,
    Catalog,
    Config,
    Message,
    ModelCard,
    OpenAITamer,
    Outcome,
    Pipeline,
    Report,
    Request,
    Response,
    Sampling,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
    assemble,
    effective_config,
    load_config,
    system,
    tame_openai_stream,
    user,
)
from kimiya.errors import BudgetExceeded, KimiyaError, ProviderError, TamingExhausted


async def ask() -> str:
    """A whole reply, with a tool and its result in the history."""
    config: Config = effective_config(load_config("kimiya.toml"))
    app: App = assemble(config)
    pipeline: Pipeline = app.pipeline
    tool = ToolSpec("read", "Read a file", {"type": "object", "properties": {}})
    history: tuple[Message, ...] = (
        system("Be brief."),
        user("Read it."),
        Message("assistant", (ToolCall("functions.read:0", "read", "{}"),)),
        Message("tool", (ToolResult("functions.read:0", (Text("done"),)),)),
    )
    request = Request(
        "kimi",
        history,
        tools=(tool,),
        sampling=Sampling(temperature=0.6, max_output_tokens=100),
        thinking=Thinking(enabled=False),
    )
    try:
        outcome: Outcome = await pipeline.complete(request, CallContext(tags={"team": "x"}))
    except (TamingExhausted, BudgetExceeded, ProviderError) as error:
        message: str = error.message
        return message
    except KimiyaError as error:
        return f"{error} {error.retryable} {error.status_hint}"
    finally:
        await app.aclose()
    response: Response = outcome.response
    report: Report = outcome.report
    dollars: Decimal | None = report.cost_usd
    usage: Usage | None = response.usage
    return f"{response.message.text} {dollars} {usage}"


async def listen(pipeline: Pipeline) -> int:
    """A stream."""
    call: Call = pipeline.stream(Request("kimi", (user("hi"),)))
    count = 0
    async for _ in call:
        count += 1
    return count


def look(catalog: Catalog) -> ModelCard:
    """The catalogue."""
    return catalog.named("kimi")[0]


def tame() -> None:
    """Taming alone."""
    for delta in tame_openai_stream([{"content": "hello"}], []):
        print(delta)
    print(OpenAITamer)
