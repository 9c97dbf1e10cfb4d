"""Other people's frameworks, each with a module that needs its package (``kimiya[strands]``)."""
