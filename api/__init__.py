"""The HTTP service over SeerDB; installed as seerdb_api."""
