"""The configuration: found, read, overlaid by the environment, and every mistake with its line."""

# ruff: noqa: E501 (a case is one line, or its table cannot be read)

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.config import Config, effective_config, load_config
from kimiya.config.discovery import discovered
from kimiya.config.toml_lines import TomlLines
from kimiya.errors import ConfigError

NOWHERE = {"HOME": "/nonexistent"}
EXAMPLE = Path(__file__).parents[1] / "kimiya.example.toml"


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        file = tmp_path / "kimiya.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def load(file: Path | None = None, **env: str) -> Config:
    return load_config(file, {**NOWHERE, **env})


# --- finding ---------------------------------------------------------------------------------------


def test_no_file_at_all_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == Config()


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home" / ".config" / "kimiya"
    home.mkdir(parents=True)
    places = {
        1: home / "kimiya.toml",
        2: tmp_path / "kimiya.toml",
        3: tmp_path / "env.toml",
        4: tmp_path / "arg.toml",
    }
    env = {"HOME": str(tmp_path / "home")}
    for port, place in places.items():
        place.write_text(f"[gateway]\nport = {port}\n")
        variables = {**env, "KIMIYA_CONFIG": str(places[3])} if port >= 3 else env
        argument = places[4] if port == 4 else None
        assert load_config(argument, variables).gateway.port == port


@pytest.mark.parametrize("how", ["argument", "variable", "folder"])
def test_a_file_that_was_named_must_be_there(tmp_path: Path, how: str) -> None:
    missing = tmp_path / "no.toml"
    argument = {"argument": missing, "folder": tmp_path}.get(how)
    env = {"KIMIYA_CONFIG": str(missing)} if how == "variable" else {}
    with pytest.raises(ConfigError, match="no such file"):
        load(argument, **env)


def test_the_example_is_valid_and_says_every_key() -> None:
    config = effective_config(load(EXAMPLE), NOWHERE)
    assert config.gateway == Config().gateway
    assert set(config.providers) == {"moonshot", "claude", "bedrock", "box", "local"}
    assert config.providers["claude"].base_url == "https://api.anthropic.com"
    assert config.overrides["models"][0]["like"] == "vllm/moonshotai/Kimi-K2.5"
    text = EXAMPLE.read_text()
    for table in (
        Config().gateway,
        Config().defaults,
        config.providers["box"],
        config.providers["box"].timeouts,
        config.routes["kimi"],
        config.taming,
        config.caching,
        config.ledger,
        config.budgets["team"],
        config.limits["*"],
    ):
        for field in table.__struct_fields__:
            assert field in text or field in ("dialect", "endpoint_url"), field


# --- mistakes --------------------------------------------------------------------------------------


MISTAKES = [
    ("[gateway]\nport = 1\nprot = 2\n", 3, "gateway.prot", "Did you mean port?"),
    ('[gateway]\nport = "x"\n', 2, "gateway.port", "int"),
    ("[gateway]\nport = 70000\n", 2, "gateway.port", "no port"),
    ("[gateway]\nmax_streams = 0\n", 2, "gateway.max_streams", "1 or more"),
    ("[gateway]\ndrain_s = nan\n", 2, "gateway.drain_s", "0 or more"),
    ('[gateway]\nlog = "loud"\n', 2, "gateway.log", "loud"),
    ("[gatway]\n", 1, "gatway", "[gateway]"),
    ("gateway = 3\n", 1, "gateway", "expected a table"),
    ("x = [\n", 2, None, "not TOML"),
    ("[gateway]\nport = 1\nport = 2\n", 3, None, "not TOML"),
    ("[providers.m]\nkind = 'opnai'\n", 2, "providers.m.kind", "opnai"),
    ("[providers.m]\nhost = 'x'\n", 1, "providers.m", "kind is missing"),
    ("[providers.m]\nkind = 'openai'\napi_key = 'sk-abcdefghijkl'\n", 3, "providers.m.api_key", "api_key_env"),
    ("[providers.m]\nkind = 'openai'\n[providers.m.headers]\nAuthorization = 'Bearer abcdefghijkl'\n", 4, "providers.m.headers.Authorization", "api_key_env"),
    ("[providers.m]\nkind = 'openai'\nregion = 'us'\n", 3, "providers.m.region", "bedrock"),
    ("[providers.m]\nkind = 'openai'\nbase_url = 'localhost:8000'\n", 3, "providers.m.base_url", "https://"),
    ("[providers.m]\nkind = 'openai'\nbase_url = 'http://[::1'\n", 3, "providers.m.base_url", "https://"),
    ("[providers.m]\nkind = 'openai'\nbase_url = 'http://a:pw@h/v1'\n", 3, "providers.m.base_url", "credential"),
    ("[providers.m]\nkind = 'simulated'\n", 1, "providers.m", "script is missing"),
    ("[providers.m]\nkind = 'local'\nslots = 0\n", 3, "providers.m.slots", "1 or more"),
    ("[providers.m]\nkind = 'openai'\n[providers.m.timeouts]\nidle_s = 0\n", 4, "providers.m.timeouts.idle_s", "above zero"),
    ("[providers.m]\nkind = 'openai'\ntimeouts = { idl_s = 3 }\n", 3, "providers.m.timeouts.idl_s", "idle_s"),
    ("[providers]\nm = 3\n", 2, "providers.m", "expected a table"),
    ("[routes.r]\ntargets = []\n", 2, "routes.r.targets", "empty"),
    ("[routes.r]\ntargets = ['kimi']\n", 2, "routes.r.targets", "provider:model"),
    ("[routes.r]\ntargets = ['a:b']\nretries = 99\n", 3, "routes.r.retries", "0 to 10"),
    ("[providers.moon]\nkind = 'openai'\n[routes.r]\ntargets = ['mon:k']\n", 4, "routes.r.targets", "Did you mean moon?"),
    ("models = 3\n", 1, "models", "[[models]]"),
    ("[[models]]\nhost = 'a'\n", 1, "models[0].model_id", "model_id"),
    ("[[models]]\nhost='vllm'\nmodel_id='m'\nlike='vllm/moonshotai/Kimi-K2.5'\n\n[[models]]\nhost='moonshot'\nmodel_id='kimi-k3'\ncontext_tokns=3\n", 9, "models[1].context_tokns", "context_tokens"),
    ("[[models]]\nhost='moonshot'\nmodel_id='kimi-k3'\n[models.cache]\nkind='magic'\n", 5, "models[0].cache.kind", "magic"),
    ("[defaults]\nmode = 'slow'\n", 2, "defaults.mode", "slow"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "words"), MISTAKES)
def test_a_mistake_is_named_with_file_line_key_and_remedy(written, text, line, key, words) -> None:
    file = written(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    error = caught.value
    assert (error.file, error.line, error.key) == (str(file), line, key)
    assert words in error.message
    assert error.message.startswith(f"{file}:{line}: ")
    assert "\n" not in error.message
    assert "sk-abc" not in error.message


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xfe[gateway]",
        b"a = " + b"[" * 5000,
        b"\x00" * 100,
        b"x = 1" + b"0" * 9000,
        b"#" * (5 * 1024 * 1024),
        b"a." * 5000 + b"b = 1",
        b"gateway.port." + b"a." * 500 + b"b = 1",
        b"[[models]]\nrecommended." + b"a." * 500 + b"b = 1",
    ],
)
def test_hostile_files_end_in_one_error(written, hostile: bytes) -> None:
    with pytest.raises(ConfigError):
        load(written(hostile))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_load_or_end_in_a_config_error(tmp_path_factory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("c") / "kimiya.toml"
    file.write_bytes(data)
    try:
        load(file)
    except ConfigError as error:
        assert error.file is not None  # noqa: PT017 (most bytes are wrong, some are right)


def test_a_windows_file_with_a_mark_is_read(written) -> None:
    assert load(written(b"\xef\xbb\xbf[gateway]\r\nport = 5\r\n")).gateway.port == 5


# --- lines -----------------------------------------------------------------------------------------


def test_lines_are_found_through_every_shape_of_toml() -> None:
    text = '''\
a.b = 1
[t."quoted key"]
x = """
[fake]
y = 1
"""
"z" = { inner = 2 }
[[rows]]
k = 1
[[rows]]
[rows.sub]
k = 2
'''
    lines = TomlLines(text)
    tomllib.loads(text)
    assert lines.find(("a", "b")) == 1
    assert lines.find(("t", "quoted key", "x")) == 3
    assert lines.find(("t", "quoted key", "z", "inner")) == 7
    assert lines.find(("rows", 0, "k")) == 9
    assert lines.find(("rows", 1, "sub", "k")) == 12
    assert lines.find(("fake",)) is None


# --- environment -----------------------------------------------------------------------------------


def test_the_environment_lies_over_the_file(written) -> None:
    file = written(
        "[gateway]\nport = 1\nhost = 'localhost'\n[providers.my-box]\nkind = 'openai'\n[providers.my-box.timeouts]\nidle_s = 1\n"
    )
    config = load(
        file,
        KIMIYA_GATEWAY__PORT="9000",
        kimiya_gateway__access_log="true",
        KIMIYA_PROVIDERS__MY_BOX__BASE_URL="http://h/v1",
        KIMIYA_PROVIDERS__MY_BOX__TIMEOUTS__HEAD_S="7",
        KIMIYA_PROVIDERS__MY_BOX__HEADERS='{"x": "y"}',
        KIMIYA_PROVIDERS__NEW__KIND="local",
        KIMIYA_ROUTES__FAST__TARGETS="my-box:a, new:b",
        KIMIYA_MODELS='[{"host": "moonshot", "model_id": "kimi-k3", "context_tokens": 5, "max_output_tokens": 5}]',
        KIMIYA_SOMETHING_ELSE="ignored",
    )
    assert (config.gateway.port, config.gateway.host, config.gateway.access_log) == (
        9000,
        "localhost",
        True,
    )
    box = config.providers["my-box"]
    assert (box.base_url, box.timeouts.head_s, box.timeouts.idle_s, box.headers) == (
        "http://h/v1",
        7.0,
        1.0,
        {"x": "y"},
    )
    assert config.providers["new"].kind == "local"
    assert config.routes["fast"].targets == ("my-box:a", "new:b")
    assert config.models[0]["context_tokens"] == 5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KIMIYA_GATEWAY__PROT", "1", "KIMIYA_GATEWAY__PORT"),
        ("KIMIYA_GATEWAY_PORT", "1", "KIMIYA_GATEWAY__PORT"),
        ("KIMIYA_GATWAY__PORT", "1", "KIMIYA_GATEWAY__"),
        ("KIMIYA_GATEWAY__PORT", "many", "int"),
        ("KIMIYA_GATEWAY__PORT", "99999", "no port"),
        ("KIMIYA_PROVIDERS__X", "1", "no such key"),
        ("KIMIYA_PROVIDERS__X__KIND", "odd", "odd"),
        ("KIMIYA_PROVIDERS__X__HEADERS", "{bad", "not JSON"),
        ("KIMIYA_MODELS", "{}", "JSON list"),
        ("KIMIYA_MODELS", '[{"host": "x"}]', "model_id"),
        ("KIMIYA_GATEWAY__", "1", "no such key"),
    ],
)
def test_a_mistake_in_a_variable_names_it(
    tmp_path, monkeypatch, name: str, value: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert name in caught.value.message
    assert words in caught.value.message


# --- what follows ----------------------------------------------------------------------------------


def test_providers_are_found_by_their_keys() -> None:
    env = {
        **NOWHERE,
        "MOONSHOT_API_KEY": "k",
        "ANTHROPIC_API_KEY": " ",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_REGION": "eu-north-1",
    }
    found = effective_config(Config(), env, gguf=Path("/model.gguf")).providers
    assert list(found) == ["moonshot", "bedrock", "local"]
    assert found["moonshot"].base_url == "https://api.moonshot.ai/v1"
    assert found["moonshot"].api_key(env) == "k"
    assert found["bedrock"].region == "eu-north-1"
    assert found["local"].host == "local"
    assert discovered(NOWHERE) == {}
    assert discovered({**NOWHERE, "AWS_ACCESS_KEY_ID": "a"}) == {}, "a region is needed too"


def test_one_provider_in_the_file_turns_discovery_off(written) -> None:
    config = load(written("[providers.box]\nkind = 'openai'\nbase_url = 'http://h:1/v1/'\n"))
    found = effective_config(config, {**NOWHERE, "MOONSHOT_API_KEY": "k"}).providers
    assert list(found) == ["box"]
    assert (found["box"].host, found["box"].base_url, found["box"].api_key_env) == (
        "box",
        "http://h:1/v1",
        None,
    )


@pytest.mark.parametrize(
    ("text", "host", "base_url", "key"),
    [
        ("[providers.moonshot]\nkind='openai'\n", "moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
        ("[providers.m]\nkind='anthropic'\nhost='moonshot'\n", "moonshot", "https://api.moonshot.ai/anthropic", "MOONSHOT_API_KEY"),
        ("[providers.cn]\nkind='openai'\nbase_url='https://api.moonshot.cn/v1'\n", "moonshot", "https://api.moonshot.cn/v1", "MOONSHOT_API_KEY"),
        ("[providers.fake]\nkind='openai'\nhost='moonshot'\nbase_url='http://127.0.0.1:1'\n", "moonshot", "http://127.0.0.1:1", None),
        ("[providers.v]\nkind='openai'\nhost='vllm'\nbase_url='http://gpu/v1'\napi_key_env='V'\n", "vllm", "http://gpu/v1", "V"),
    ],
)  # fmt: skip
def test_host_address_and_key_follow_from_each_other(written, text, host, base_url, key) -> None:
    (provider,) = effective_config(load(written(text)), NOWHERE).providers.values()
    assert (provider.host, provider.base_url, provider.api_key_env) == (host, base_url, key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[providers.box]\nkind='openai'\n", "base_url is missing"),
        ("[providers.b]\nkind='bedrock'\n", "region is missing"),
        ("[routes.r]\ntargets=['moonshot:k']\n", "no provider"),
    ],
)
def test_what_nothing_tells_is_asked_for(written, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        effective_config(load(written(text)), NOWHERE, gguf=Path("/model.gguf"))


def test_a_key_that_is_not_set_is_named_not_guessed(written) -> None:
    config = load(written("[providers.moonshot]\nkind='openai'\n"))
    (provider,) = effective_config(config, NOWHERE).providers.values()
    with pytest.raises(ConfigError, match="MOONSHOT_API_KEY"):
        provider.api_key({"MOONSHOT_API_KEY": "  "})


@pytest.mark.parametrize(
    ("model", "target"),
    [("kimi", "a:1"), ("claude-opus", "a:3"), ("claude-x", "a:2"), ("other", None), ("a[b]", "a:4"), ("a?", "a:5"), ("ab", None)],
)  # fmt: skip
def test_the_longest_pattern_that_fits_is_the_route(written, model, target) -> None:
    names = {"kimi": 1, "claude-*": 2, "claude-o*": 3, "a[b]": 4, "a?*": 5}
    text = "".join(f"[routes.'{name}']\ntargets = ['a:{n}']\n" for name, n in names.items())
    route = load(written(text)).route_for(model)
    assert (route.targets[0] if route else None) == target
