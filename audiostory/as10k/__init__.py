"""Builds a corpus of stories from videos, as the paper built AudioStory-10k (section 3). Needs no torch.

A folder of videos becomes clips (`videos`, `shots`, `similarity`, `clips`), a multimodal model writes down what is
heard in each (`events`), a text model what story it tells (`stories`), and each story becomes rows of a manifest
(`tiling`, `rows`). `build` runs the steps one after the other, each of which goes on where it was stopped (`work`,
`ledger`). docs/AS10K.md tells what is kept and why; scripts/prepare_as10k.py is the command.
"""
