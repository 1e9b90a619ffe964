"""The frame of `archzoo`: which commands there are, how words become arguments, what help says."""
