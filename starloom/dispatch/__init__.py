"""The one room that speaks to Prefect: by its REST API, and by starting its programs."""
