"""Plans a run for machines that are not there:

python -m mmjax.plan --config configs/NAME.py [--topology v5e:16x16] [--config.a.b=value ...]
"""

from mmjax.plan.environment import prepare

if __name__ == "__main__":
    prepare()
    # Only now: they import JAX.
    from mmjax import command_line
    from mmjax.plan import command

    command_line.run(command.main)
