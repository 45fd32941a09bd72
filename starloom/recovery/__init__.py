"""After a restore: what the lake holds and the archive does not know, and the other way round.

A restored archive is as old as its backup; the lake is of today. Raw frames that came in between lie there, with
receipts that name them; stacks that were published in between lie under epochs that the archive has never given.
Nothing here is needed while nothing was lost, and everything may be repeated.
"""
