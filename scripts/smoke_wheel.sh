#!/bin/sh
# Tries an installed wheel as its user would, with nothing but the core dependencies.
# usage: smoke_wheel.sh VENV_BIN
set -eu
bin=$1
"$bin/kimiya" --version
"$bin/kimiya" models >/dev/null
"$bin/kimiya" doctor >/dev/null || true
"$bin/python" - <<'PY'
import sys

import kimiya
import kimiya.taming

heavy = {"torch", "xllamacpp", "botocore", "aiohttp", "uvicorn"} & set(sys.modules)
assert not heavy, f"import kimiya loads {heavy}"
PY
printf 'reply\n  text: {user}\n' > hello.sim
cat > hello.toml <<'TOML'
[providers.sim]
kind = "simulated"
script = "hello.sim"

[routes.sim]
targets = ["sim:echo"]
TOML
KIMIYA_CONFIG=hello.toml "$bin/kimiya" chat --model sim -p "hello from the wheel"
echo "wheel: ok"
