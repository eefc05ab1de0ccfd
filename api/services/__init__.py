"""What routes do: runs, datasets, encoders, collections, search, inference, studies."""
