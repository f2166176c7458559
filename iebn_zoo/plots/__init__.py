"""Every picture of the package. ``style`` is shared by all; no module changes the matplotlib backend of the user."""
