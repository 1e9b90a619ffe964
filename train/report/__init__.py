"""What runs left behind, as one page of HTML that needs nothing beside itself."""
