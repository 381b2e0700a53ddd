"""Write trained models as versioned SavedModels and TFLite files, and run what was written.

`export.runtimes.protocol` is the seam: everything that runs an exported model has that shape. Only
`export.runtimes.saved_model` and `export.conversion.saved_model_writer` need TensorFlow, and they load it when first
used.
"""
