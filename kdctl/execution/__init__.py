"""Who trains gangs: this process, local workers, or jobs of a cluster. All give the same results."""
