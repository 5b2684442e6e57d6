"""A model that hears judges told stories: the paper's four axes, and a rubric of yes/no items out of the instruction.

`stories` reads what is judged, `prompts` has the words, `calls` plans every question, `asking` asks them with patience,
`journal` keeps the answers, `scores` makes figures of them; `gemini`, `openai_server` and `local` are who can be asked.
No torch here, but for `local` when it is used.
"""
