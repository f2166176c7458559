"""Uploads to the Hub, and checks of what lies there: client -> plan -> deliver -> arrival, and verify."""
