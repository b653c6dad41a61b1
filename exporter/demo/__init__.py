"""Demo folders: a model header of real shape, a stand-in vocabulary, and made statistics."""
