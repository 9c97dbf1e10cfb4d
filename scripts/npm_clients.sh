#!/bin/sh
# Installs the npm clients the end-to-end tests drive, exactly as locked, into tests/e2e/npm. Without
# npm it says so and the tests that need them are skipped. Package scripts are not run: the clients'
# own only copy a binary, which the tests start where it lies.
set -eu
cd "$(dirname "$0")/../tests/e2e/npm"
if ! command -v npm >/dev/null 2>&1; then
  echo "npm is not installed: the tests that drive Claude Code and Codex will be skipped"
  exit 0
fi
stamp=node_modules/.kimiya-installed
if [ -e "$stamp" ] && cmp -s package-lock.json "$stamp"; then
  exit 0
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
cp package-lock.json "$stamp"
