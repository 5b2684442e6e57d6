"""Scores stories that lie on disk, whoever told them; this room never imports the model.

`items` reads what was asked and what was told, `ear` is a listener trained on ground-truth sounds alone, `soundworld`
scores told stories against known truth, `report` puts the figures beside their ceiling and floor.
"""
