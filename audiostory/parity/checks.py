def rounding(recorded):
    return 1e-5 + 2e-6 * recorded.abs().max().item()
