"""Every picture of the package. ``style`` is what all share; none touches the matplotlib backend of the user."""
