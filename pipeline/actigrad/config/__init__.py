"""Config: a YAML file to frozen records, or every problem at once with its line.

records     what a config may say
files       reading one, and telling what is wrong with it
yamlfile    YAML that keeps its line numbers; `--set` overrides
references  `module:name` to the object
"""
