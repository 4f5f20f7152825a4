module croft.example/report

go 1.22
