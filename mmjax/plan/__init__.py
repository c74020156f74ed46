"""What a run will ask of machines that are not there: `python -m mmjax.plan`."""
