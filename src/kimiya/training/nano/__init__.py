"""The nano model: synthetic tool use in Kimi's own format, and the engine that speaks it.

One vocabulary of made-up tools (`vocabulary`), tasks drawn from it (`tasks`), Kimi's chat template
(`template`) and a tokenizer (`tokenizer`); packed into batches (`packing`), ordered into a run
(`curriculum`), judged (`evaluation`) and spoken to (`engine`).
"""
