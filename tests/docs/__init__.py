"""Parts of the pages written from the code and from kept results, and laws of the pages."""
