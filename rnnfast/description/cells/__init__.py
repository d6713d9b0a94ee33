"""The cells that come with the package."""
