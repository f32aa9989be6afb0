"""Names of the suites' tasks, written down so that registering them imports no suite. Tests compare them."""

# ruff: noqa: SIM905  words in a paragraph are easier to read than a list of strings

__all__ = ["ATARI_100K", "ATARI_OTHERS", "CONTROL", "META_WORLD", "game_name"]

# The 26 games of Atari100K, as ALE names their ROMs.
ATARI_100K = tuple(
    """
    alien amidar assault asterix bank_heist battle_zone boxing breakout chopper_command crazy_climber
    demon_attack freeway frostbite gopher hero jamesbond kangaroo krull kung_fu_master ms_pacman pong
    private_eye qbert road_runner seaquest up_n_down
    """.split()
)

# ALE's other games for one player.
ATARI_OTHERS = tuple(
    """
    adventure air_raid asteroids atlantis atlantis2 backgammon basic_math beam_rider berzerk blackjack bowling
    carnival casino centipede crossbow darkchambers defender donkey_kong double_dunk earthworld elevator_action
    enduro entombed et fishing_derby flag_capture frogger galaxian gravitar hangman haunted_house
    human_cannonball ice_hockey journey_escape kaboom keystone_kapers king_kong klax koolaid laser_gates
    lost_luggage mario_bros miniature_golf montezuma_revenge mr_do name_this_game othello pacman phoenix pitfall
    pitfall2 pooyan riverraid robotank sir_lancelot skiing solaris space_invaders space_war star_gunner superman
    surround tennis tetris tic_tac_toe_3d time_pilot trondead turmoil tutankham venture video_checkers
    video_chess video_cube video_pinball wizard_of_wor word_zapper yars_revenge zaxxon
    """.split()
)

# The DeepMind Control suite, domain-task.
CONTROL = tuple(
    """
    acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance cartpole-balance_sparse
    cartpole-swingup cartpole-swingup_sparse cartpole-two_poles cartpole-three_poles cheetah-run dog-stand
    dog-walk dog-trot dog-run dog-fetch finger-spin finger-turn_easy finger-turn_hard fish-upright fish-swim
    hopper-stand hopper-hop humanoid-stand humanoid-walk humanoid-run humanoid-run_pure_state humanoid_CMU-stand
    humanoid_CMU-walk humanoid_CMU-run lqr-lqr_2_1 lqr-lqr_6_2 manipulator-bring_ball manipulator-bring_peg
    manipulator-insert_ball manipulator-insert_peg pendulum-swingup point_mass-easy point_mass-hard
    quadruped-walk quadruped-run quadruped-escape quadruped-fetch reacher-easy reacher-hard stacker-stack_2
    stacker-stack_4 swimmer-swimmer6 swimmer-swimmer15 walker-stand walker-walk walker-run
    """.split()
)

# Meta-World's 50 tasks, without its version.
META_WORLD = tuple(
    """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press
    handle-press-side handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole
    pick-place pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push
    push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close
    window-open
    """.split()
)


def game_name(rom: str) -> str:
    """ALE's name of a game: ``game_name("up_n_down") == "UpNDown"``."""
    return rom.title().replace("_", "")
