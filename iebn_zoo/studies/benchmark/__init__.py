"""What IEBN costs against BatchNorm: time and memory of layers and models, measured only after an oracle check.

    arguments -> plan (cases) -> oracle (refuses a wrong operator) -> measure (steps, memory) -> report (CSV, chart)
"""
