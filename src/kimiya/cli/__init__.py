"""The command ``kimiya``: parsing, dispatch and printing; everything else lives below."""
