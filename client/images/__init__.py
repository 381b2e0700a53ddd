"""Images: found, downloaded, decoded, preprocessed."""
