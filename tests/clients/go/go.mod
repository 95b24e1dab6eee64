module corelane/checks

go 1.24
