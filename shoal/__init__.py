"""What a user touches: the ``shoal`` command and the Python client. It installs alone and speaks HTTP only."""
