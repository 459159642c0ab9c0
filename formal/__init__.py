"""The model of consensus: Simplex.tla, its instances, its transliteration, and the replay of real runs."""
