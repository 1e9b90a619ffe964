"""The commands of `archzoo`, a file each."""
