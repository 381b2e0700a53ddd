"""Write trained models as versioned SavedModels and TFLite files, and run what was written.

`export.runtime` is the seam: everything that runs an exported model has that shape. Only
`export.savedmodel` and `export.convert` need TensorFlow, and they load it when first used.
"""
