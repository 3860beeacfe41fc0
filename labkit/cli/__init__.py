"""The command line: `labkit serve | stream | compare | bench | doctor | lab`."""
