"""Without the extra: no torch, no failure at import, a clear error at use. Runs either way."""

import subprocess
import sys
import textwrap


def test_importing_kimiya_never_imports_torch():
    code = """
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        import kimiya, kimiya.training
        from kimiya.errors import ConfigError
        try:
            kimiya.training.MuonClip
        except ConfigError as error:
            assert "kimiya[train]" in str(error), error
        else:
            raise AssertionError("no error")
        try:
            kimiya.training.nothing
        except AttributeError:
            print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine\n", done.stderr
