"""What every ablation of the study stands on: parameters, rows, dense models, statistics, figures, the command line."""
