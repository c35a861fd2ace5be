"""Just what the headers of encoded media tell: sizes, rates, key frames, configuration records. Pure; decodes nothing."""
