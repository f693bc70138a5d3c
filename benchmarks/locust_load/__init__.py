"""What the locust load test (`benchmarks/locustfile.py`) is made of.

options    what a person chooses, on the command line or in the web page's form
shapes     how the load changes over time; shape.py makes locust follow it
supply     what is asked: a named workload or a mix of models
shares     how a workload is divided among processes
loops      when it is asked: open or closed loop
client     sends one request and reads its stream
report     rows of locust's table, by groups.py, and the counts of tally.py
verdict    the summary, and whether what was demanded was met
session    one load test: ties these to locust's events
"""
