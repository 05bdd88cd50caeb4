"""SeerDB beside its peers, measured in one run on one machine.

``python -m benchmarks --help`` lists the commands; ``README.md`` says what is compared and how.
Nothing here is imported by the engine or the server.
"""
