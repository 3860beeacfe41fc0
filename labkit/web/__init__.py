"""What HTTP-borne servers and clients share."""
