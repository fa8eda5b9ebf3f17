"""The commands about data: `cclm data check`, `shard` and `audit`. (`cclm data index` is `cclm.data.stored.index`.)"""
