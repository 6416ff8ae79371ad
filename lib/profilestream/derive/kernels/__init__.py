"""The arithmetic of statistics, in numpy over Arrow: no Spark, no settings, no input or output.

A kernel computes one kind of statistic for many groups at once, by four functions over flat arrays:

    lift(events)            entries of events
    unpack(states, rows)    entries of stored states
    fold(entries, count)    one state per group
    cut(states)             states of at most their declared size, after the last fold of a batch
    read(states, factors)   values for users, with weights decayed by a factor per state

There is no separate merge: entries of events and of stored states are concatenated and folded once.
"""
