"""From a run or a converted network to a Hub repository: package and card -> push -> verify."""
