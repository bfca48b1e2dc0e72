"""DeepLesion (Yan et al. 2018) from its official layout."""
