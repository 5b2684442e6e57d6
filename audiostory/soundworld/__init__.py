"""The procedural sound world: 26 classes of sound with known truth, and the stories told with them. No torch here."""
