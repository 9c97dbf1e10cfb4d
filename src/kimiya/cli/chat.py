"""``kimiya chat``: one question (``-p``), or a conversation in the terminal."""

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from kimiya.cli.configured import add_config_option, effective
from kimiya.errors import ConfigError

if TYPE_CHECKING:
    from kimiya.assembly import App
    from kimiya.cli.conversation import Conversation
    from kimiya.cli.rendering import Screen


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``chat``."""
    parser = subparsers.add_parser(
        "chat",
        help="talk to a model",
        description="Talk to a model. Without -p, a conversation; Ctrl-C stops a reply, Ctrl-D ends"
        " it, /help lists what else there is.",
    )
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="ask once; - reads standard input")
    parser.add_argument("dash", nargs="?", choices=["-"], metavar="-", help="the same as -p -")
    parser.add_argument("--model", help="name, alias, route or provider:model")
    parser.add_argument("--mode", choices=["instant", "thinking"], help="whether to think first")
    parser.add_argument("--system", metavar="TEXT", help="instructions before the conversation")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of a reply")
    parser.add_argument("--temperature", type=float, metavar="T", help="in the model's own scale")
    parser.add_argument("--json", action="store_true", help="print one JSON object (with -p)")
    parser.add_argument("--no-stream", action="store_true", help="wait for the whole reply")
    parser.add_argument("--reasoning", action="store_true", help="show the reasoning too")
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, or talk until the end of input.

    Raises:
        KimiyaError: Whatever went wrong with a single question; a conversation goes on.
    """
    prompt = _prompt(args)
    if args.json and prompt is None:
        raise ConfigError("--json answers one question", remedy="Add -p TEXT, or -p - for stdin")
    from kimiya.assembly import assemble
    from kimiya.cli.conversation import Conversation
    from kimiya.cli.rendering import screen_for

    config = effective(args)
    app = assemble(config)
    conversation = Conversation(
        app.pipeline,
        model=args.model or config.defaults.model or _first_model(app),
        mode=args.mode or config.defaults.mode,
        system=args.system,
        max_output_tokens=args.max_tokens,
        temperature=args.temperature,
        streams=not args.no_stream,
    )
    screen = screen_for(sys.stdout, sys.stderr, shows_reasoning=args.reasoning)
    with asyncio.Runner() as runner:
        try:
            runner.run(app.open_books())
            if prompt is None:
                return _talk(runner, conversation, screen)
            if args.json:
                print(json.dumps(runner.run(_as_json(conversation, prompt))))
                return 0
            runner.run(conversation.ask(prompt, screen))
            return 0
        finally:
            runner.run(app.aclose())


def _prompt(args: argparse.Namespace) -> str | None:
    text = "-" if args.dash else args.prompt
    if text == "-" or (text is None and not sys.stdin.isatty()):
        # A pipe without -p is a question too: there is nobody to converse with.
        text = sys.stdin.read()
    if text is not None and not text.strip():
        raise ConfigError("the question is empty", remedy="Write it after -p, or pipe it in")
    return text


def _first_model(app: "App") -> str:
    """What to talk to when nobody says: the first route, else the first card of the first host."""
    for name in app.routes.model_names():
        return name
    for name, settings in app.config.providers.items():
        if settings.kind == "simulated":
            return f"{name}:simulated"  # a script answers whatever name it is called by
    raise ConfigError(
        "no model was named, and the configured hosts have none in the catalogue",
        key="defaults.model",
        remedy="Give --model provider:model",
    )


async def _as_json(conversation: "Conversation", prompt: str) -> dict[str, Any]:
    import msgspec

    outcome = await conversation.whole(prompt)
    response, report = outcome.response, outcome.report
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return {
        "text": response.message.text,
        "reasoning": response.message.reasoning or None,
        "tool_calls": msgspec.to_builtins(response.message.tool_calls),
        "finish_reason": response.finish_reason,
        **{name: plain[name] for name in ("model", "target", "usage", "adjustments", "verdict")},
        "cost_usd": None if report.cost_usd is None else f"{report.cost_usd:f}",
        "duration_s": report.duration_s,
    }


_HELP = """\
/model NAME   talk to another model       /mode instant|thinking|auto
/system TEXT  other instructions          /clear   forget what was said
/help         this list                   /exit    leave (also Ctrl-D)"""


def _talk(runner: asyncio.Runner, conversation: "Conversation", screen: "Screen") -> int:
    from kimiya.errors import KimiyaError

    screen.remark(f"{conversation.model}. /help lists commands, Ctrl-C stops a reply.")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if line.startswith("/"):
            if _is_leaving(line, conversation, screen):
                return 0
        elif line:
            try:
                runner.run(conversation.ask(line, screen))
            except KeyboardInterrupt:
                screen.remark("stopped")
            except KimiyaError as error:
                screen.error(f"{type(error).__name__}: {error.message}")


def _is_leaving(line: str, conversation: "Conversation", screen: "Screen") -> bool:
    """Do what a line that starts with a slash asks."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    match word, rest:
        case ("/exit" | "/quit", _):
            return True
        case ("/clear", _):
            conversation.clear()
            screen.remark("forgotten")
        case ("/model", str() as name) if name:
            conversation.model = name
            screen.remark(f"now {name}")
        case ("/mode", "instant" | "thinking" as mode):
            conversation.mode = mode
            screen.remark(f"{mode} mode")
        case ("/mode", "auto"):
            conversation.mode = None
            screen.remark("the host decides whether to think")
        case ("/system", text) if text:
            conversation.clear(system=text)
            screen.remark("new instructions; what was said is forgotten")
        case ("/help", _):
            screen.remark(_HELP)
        case _:
            screen.error(f"{line[:60]!r} is no command; /help lists them")
    return False
