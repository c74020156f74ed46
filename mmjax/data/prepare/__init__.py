"""From a source to a data set that is ready to train on: filtered, without duplicates, scaled, in shards.

`settings` says what is wanted, `facts` what each record is, `choice` which of them are kept, `shards` writes them, and
`manifest` what became of all. `pipeline` has these steps in their order, `parts` what one process does of a step,
`runners` who does all parts, and `folder` where the files go.
"""
