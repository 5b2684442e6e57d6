"""Scores stories that lie on disk, whoever told them; this room never imports the model.

`items` reads what was asked and what was told, `ear` is a listener trained on ground-truth sounds alone, `soundworld`
scores told stories against known truth, `report` puts the figures beside their ceiling and floor. `recorded` reads any
system's recordings, `embedders` are published networks that hear them, `metrics` the figures that are made of it, one
a file; `judge` lets a model that hears judge them.
"""
