"""Datasets by name: `catalog` says which there are, `loading.load` reads one, `batches` makes loaders of it."""
