------------------------------ MODULE Simplex ------------------------------
(***************************************************************************)
(* Safety of the consensus in consensus/ : votes, certificates, what is    *)
(* kept before it is sent, crashes, members that sign anything, epochs.    *)
(* Rule numbers in brackets are those of docs/spec.md, section Consensus;  *)
(* "W" is Simplex.md of ton-blockchain/simplex-docs.                       *)
(*                                                                         *)
(* A block is the chain that ends in it: a sequence of                     *)
(* <<epoch, view, content, mark>>, as a hash names all that is below.      *)
(*                                                                         *)
(* Where the model allows more than the program (so that what holds here   *)
(* holds there):                                                           *)
(* - A vote that was sent may be known to anybody or nobody at any time:   *)
(*   loss, delay, reordering and partitions need no state of their own.    *)
(* - A Byzantine member's vote for anything is there whenever it helps.    *)
(* - The leader of a view in `Open` may have proposed every block, to whom *)
(*   it likes. In the other views all honest votes are for one block.      *)
(* - Time is not there: a timeout may come at any moment.                  *)
(* Where it allows less: views, contents and epochs are bounded by the     *)
(* instance; all members weigh the same.                                   *)
(***************************************************************************)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
    Honest,     \* members that keep the rules
    Outside,    \* an observer who is no member
    MembersOf,  \* <<members of epoch 1, members of epoch 2, ...>>; who is not honest is Byzantine
    Last,       \* the last view of the instance
    Open,       \* views with a Byzantine leader
    Contents,   \* of blocks
    EndsAt,     \* views whose blocks are the last of an epoch that another follows
    InSteps,    \* casting, keeping and sending a vote are steps apart, and crashes come between
    Prunes,     \* what a commit settles is forgotten
    Broken      \* names of rules that are left out; {} is the protocol

ASSUME Prunes => InSteps

VARIABLES
    votes,      \* [honest member -> the votes that it remembers]
    disk,       \* [honest member -> those that it remembers after a crash]
    sent,       \* [honest member -> those that others may know]
    floor       \* [honest member -> <<epoch, view>> up to which it has forgotten its votes]

vars == <<votes, disk, sent, floor>>

Epochs == 1 .. Len(MembersOf)
Slots == Epochs \X (1 .. Last)
Genesis == <<>>
Nothing == [notar |-> [s \in Slots |-> {}], final |-> [s \in Slots |-> {}], skip |-> {}]

Join(new, old) ==
    [notar |-> [s \in Slots |-> new.notar[s] \cup old.notar[s]],
     final |-> [s \in Slots |-> new.final[s] \cup old.final[s]],
     skip |-> new.skip \cup old.skip]

(* ------------------------------- blocks -------------------------------- *)

IsPrefix(a, b) == Len(a) <= Len(b) /\ SubSeq(b, 1, Len(a)) = a
ViewOf(b) == IF b = Genesis THEN 0 ELSE b[Len(b)][2]
EpochOf(b) == IF b = Genesis THEN 0 ELSE b[Len(b)][1]
IsBoundary(b) == b /= Genesis /\ b[Len(b)][4] = "last"  \* [12] the last block of its epoch

\* [12] the places where a block of the same epoch stands on a boundary: from there on it is tail
TailFrom(b) == {n \in 1 .. Len(b) - 1 : b[n][4] = "last" /\ b[n + 1][1] = b[n][1]}
IsTail(b) == TailFrom(b) /= {}
Cut(b) ==
    IF IsTail(b) /\ "commit_tail" \notin Broken
    THEN SubSeq(b, 1, CHOOSE n \in TailFrom(b) : \A m \in TailFrom(b) : n <= m)
    ELSE b

(* ---------------------------- certificates ----------------------------- *)

\* What `who` may know of a member's votes: all that was sent, and its own at once. When a vote is cast,
\* kept and sent in one step, one variable is enough for the three.
Known(who, i) ==
    IF ~ InSteps THEN votes[i]
    ELSE IF who = i THEN Join(votes[i], sent[i]) ELSE sent[i]

\* W 1.1: q = floor(2W/3) + 1, of members that weigh 1 each. A Byzantine member always helps.
Quorum(e) == (2 * Cardinality(MembersOf[e])) \div 3 + 1 - (IF "quorum" \in Broken THEN 1 ELSE 0)
Voters(e) == MembersOf[e] \cap Honest
Reached(e, voters) == Cardinality(voters) + Cardinality(MembersOf[e] \ Honest) >= Quorum(e)

NotarReached(who, s, b) == Reached(s[1], {i \in Voters(s[1]) : b \in Known(who, i).notar[s]})
FinalReached(who, s, b) == Reached(s[1], {i \in Voters(s[1]) : b \in Known(who, i).final[s]})
SkipReached(who, s) ==
    LET counts == IF "epoch_mixed" \in Broken THEN {<<e, s[2]>> : e \in Epochs} ELSE {s}
    IN  Reached(s[1], {i \in Voters(s[1]) : Known(who, i).skip \cap counts /= {}})

VotedNotar(who, s) == UNION {Known(who, i).notar[s] : i \in Voters(s[1])}
Notarized(who, s) == {b \in VotedNotar(who, s) : NotarReached(who, s, b)}
Finalized(who, s) ==
    {b \in UNION {Known(who, i).final[s] : i \in Voters(s[1])} : FinalReached(who, s, b)}

\* [9] [12] what may be committed, with all that it stands on
Committed(who) == {Cut(b) : b \in UNION {Finalized(who, s) : s \in Slots}}

(* ------------------------------- rules --------------------------------- *)

\* [12] where an epoch may begin: at a committed boundary of the one before
Bases(who, e) ==
    IF e = 1 THEN {Genesis}
    ELSE LET ends == IF "epoch_early" \in Broken
                     THEN UNION {Notarized(who, <<e - 1, v>>) : v \in 1 .. Last}
                     ELSE Committed(who)
         IN  {b \in ends : IsBoundary(b) /\ EpochOf(b) = e - 1}

\* [1] a view is entered when all of its epoch before it are cleared
Cleared(who, s) ==
    \/ SkipReached(who, s)
    \/ Notarized(who, s) /= {}
    \/ \E v \in s[2] .. Last : Finalized(who, <<s[1], v>>) /= {}
Entered(who, s) ==
    \E base \in Bases(who, s[1]) :
        /\ s[2] > ViewOf(base)
        /\ \A v \in ViewOf(base) + 1 .. s[2] - 1 : Cleared(who, <<s[1], v>>)

\* [12] in the tail of an epoch a notarized block beside lets a view pass, too: final, it settles their parent
Passed(who, s, p) ==
    \/ SkipReached(who, s)
    \/ /\ p /= Genesis /\ IsBoundary(p) /\ EpochOf(p) = s[1]
       /\ \E b \in Notarized(who, s) : SubSeq(b, 1, Len(b) - 1) = p

\* [2] the parents that can be proved: notarized or the base, with Skip for every view between
Parents(who, s) ==
    {p \in Bases(who, s[1]) \cup UNION {Notarized(who, <<s[1], v>>) : v \in 1 .. s[2] - 1} :
        /\ ViewOf(p) < s[2]
        /\ ~ (IsTail(p) /\ EpochOf(p) = s[1])  \* [12] a tail does not grow
        /\ "no_skips" \in Broken
           \/ \A v \in ViewOf(p) + 1 .. s[2] - 1 : Passed(who, <<s[1], v>>, p)}

\* [12] a block on a boundary of its own epoch carries nothing
Mark(s) == IF s[1] + 1 \in Epochs /\ s[2] \in EndsAt THEN "last" ELSE "plain"
Children(s, p) ==
    IF EpochOf(p) = s[1] /\ IsBoundary(p)
    THEN {Append(p, <<s[1], s[2], "none", "plain">>)}
    ELSE {Append(p, <<s[1], s[2], x, Mark(s)>>) : x \in Contents}
Blocks(who, s) == UNION {Children(s, p) : p \in Parents(who, s)}

\* An honest leader signs one block, so all honest votes of its view are for that one.
OneBlock(s, b) ==
    s[2] \in Open \/ \A j \in Voters(s[1]) : votes[j].notar[s] \cup Known(j, j).notar[s] \subseteq {b}

IsSettled(s, at) == s[1] < at[1] \/ (s[1] = at[1] /\ s[2] <= at[2])
AboveFloor(i, s) == "prune_unfloored" \in Broken \/ ~ IsSettled(s, floor[i])

CanNotar(i, s, b) ==  \* [3] and b is one of Blocks
    /\ votes[i].notar[s] = {} \/ ("two_notars" \in Broken /\ b \notin votes[i].notar[s])
    /\ AboveFloor(i, s)
    /\ OneBlock(s, b)

CanFinal(i, s, b) ==  \* [4]
    /\ votes[i].final[s] = {}
    /\ AboveFloor(i, s)
    /\ "final_without_notar" \in Broken \/ b \in votes[i].notar[s]
    /\ "final_without_certificate" \in Broken \/ NotarReached(i, s, b)
    /\ "final_after_skip" \in Broken \/ s \notin votes[i].skip

CanSkip(i, s) ==  \* [5] and s is entered
    /\ s \notin votes[i].skip
    /\ AboveFloor(i, s)
    /\ "skip_after_final" \in Broken \/ votes[i].final[s] = {}

(* ------------------------------- steps --------------------------------- *)

Cast(i, new) == votes' = [votes EXCEPT ![i] = new] /\ UNCHANGED <<disk, sent, floor>>

Notar(i, s, blocks) ==
    \E b \in blocks : CanNotar(i, s, b) /\ Cast(i, [votes[i] EXCEPT !.notar[s] = @ \cup {b}])

Final(i, s, voted) ==
    \E b \in voted : CanFinal(i, s, b) /\ Cast(i, [votes[i] EXCEPT !.final[s] = @ \cup {b}])

Skip(i, s) == CanSkip(i, s) /\ Cast(i, [votes[i] EXCEPT !.skip = @ \cup {s}])

\* The shell keeps what was cast, all at once, then sends it, one vote after the other, Notar before Final.
Keep(i) ==
    /\ InSteps /\ disk[i] /= votes[i]
    /\ disk' = [disk EXCEPT ![i] = votes[i]]
    /\ UNCHANGED <<votes, sent, floor>>

Unsent(i) ==
    {[Nothing EXCEPT !.notar[s] = votes[i].notar[s] \ sent[i].notar[s]] : s \in Slots} \cup
    {[Nothing EXCEPT !.final[s] = votes[i].final[s] \ sent[i].final[s]] :
        s \in {t \in Slots : votes[i].notar[t] \subseteq sent[i].notar[t]}} \cup
    {[Nothing EXCEPT !.skip = {s}] : s \in votes[i].skip \ sent[i].skip}

Send(i) ==
    /\ InSteps
    /\ "send_unkept" \in Broken \/ disk[i] = votes[i]
    /\ \E one \in Unsent(i) \ {Nothing} : sent' = [sent EXCEPT ![i] = Join(one, @)]
    /\ UNCHANGED <<votes, disk, floor>>

Crash(i) ==
    /\ InSteps /\ votes[i] /= disk[i]
    /\ votes' = [votes EXCEPT ![i] = disk[i]]
    /\ UNCHANGED <<disk, sent, floor>>

\* After a commit the sign state up to its view goes, with a floor in its place. A boundary settles its epoch.
Settles(b) == IF IsBoundary(b) THEN <<EpochOf(b), Last>> ELSE <<EpochOf(b), ViewOf(b)>>
Without(kept, at) ==
    [notar |-> [s \in Slots |-> IF IsSettled(s, at) THEN {} ELSE kept.notar[s]],
     final |-> [s \in Slots |-> IF IsSettled(s, at) THEN {} ELSE kept.final[s]],
     skip |-> {s \in kept.skip : ~ IsSettled(s, at)}]

Prune(i) ==
    /\ Prunes /\ disk[i] = votes[i]
    /\ \E b \in Committed(i) :
        /\ ~ IsSettled(Settles(b), floor[i])
        /\ floor' = [floor EXCEPT ![i] = Settles(b)]
        /\ disk' = [disk EXCEPT ![i] = Without(@, Settles(b))]
        /\ votes' = [votes EXCEPT ![i] = Without(@, Settles(b))]
        /\ UNCHANGED sent

Next ==
    \/ \E s \in Slots :
        LET seers == IF InSteps THEN Voters(s[1]) ELSE {Outside}
            blocks == [who \in seers |-> Blocks(who, s)]
            voted == [who \in seers |-> VotedNotar(who, s)]
            entered == [who \in seers |-> Entered(who, s)]
        IN  \E i \in Voters(s[1]) :
            LET who == IF InSteps THEN i ELSE Outside
            IN  \/ Notar(i, s, blocks[who])
                \/ Final(i, s, voted[who])
                \/ entered[who] /\ Skip(i, s)
    \/ \E i \in Honest : Keep(i) \/ Send(i) \/ Crash(i) \/ Prune(i)

Init ==
    /\ votes = [i \in Honest |-> Nothing]
    /\ disk = IF InSteps THEN votes ELSE <<>>
    /\ sent = disk
    /\ floor = [i \in Honest |-> <<0, 0>>]

Spec == Init /\ [][Next]_vars

(* ------------------------- what must always hold ------------------------ *)

\* W 2.6, 2.7: of two blocks that are committed, one stands on the other.
Agreement == LET committed == Committed(Outside) IN \A a, b \in committed : IsPrefix(a, b) \/ IsPrefix(b, a)

\* W 2.1, 2.2, 2.4
SkipExcludesFinal == \A s \in Slots : SkipReached(Outside, s) => Finalized(Outside, s) = {}
OneNotarized == \A s \in Slots : Cardinality(Notarized(Outside, s)) <= 1

\* W 2.3, 2.5: Final stands on Notar, and so does each block below it, of its own view.
ProvedChain ==
    \A s \in Slots :
        /\ \A b \in Finalized(Outside, s) : NotarReached(Outside, s, b)
        /\ \A b \in Notarized(Outside, s) : b[Len(b)][2] = s[2] /\ \A n \in 1 .. Len(b) - 1 :
               NotarReached(Outside, <<b[n][1], b[n][2]>>, SubSeq(b, 1, n))

\* Own votes as others see them [11]: never two Notars or two Finals of a view, nor Skip and Final.
NoOffence ==
    \A i \in Honest : LET own == Known(Outside, i) IN
        \A s \in Slots :
            /\ Cardinality(own.notar[s]) <= 1
            /\ own.final[s] = {} \/ (Cardinality(own.final[s]) = 1 /\ s \notin own.skip)

\* [4] A Final vote is for the block that got its own Notar. (Sent in any order: the network has none.)
FinalFollowsNotar == \A i \in Honest, s \in Slots : votes[i].final[s] \subseteq votes[i].notar[s]

\* [12] An epoch begins at one block, and nothing but the next epoch stands on its end.
OneBoundary == \A e \in Epochs \ {1} : Cardinality(Bases(Outside, e)) <= 1
NothingAboveBoundary ==
    \A b \in Committed(Outside) : \A n \in 1 .. Len(b) - 1 : b[n][4] = "last" => b[n + 1][1] = b[n][1] + 1

\* Persist before send: what others know is remembered after a crash, or settled.
KeptBeforeSent ==
    InSteps => \A i \in Honest, s \in Slots :
        IsSettled(s, floor[i]) \/ /\ sent[i].notar[s] \subseteq disk[i].notar[s]
                                  /\ sent[i].final[s] \subseteq disk[i].final[s]
                                  /\ s \in sent[i].skip => s \in disk[i].skip
=============================================================================
