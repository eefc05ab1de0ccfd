"""Generated requests against a service that holds one owner's secrets."""
