;; primes N: counts the primes up to N by the sieve of Eratosthenes, and writes the count and the largest one
;; into /result/primes.txt. Ends with 2 when N is not a number from 2 to 100000000.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "result/primes.txt")
  (global $end (mut i32) (i32.const 200))  ;; text is made backwards, before this place

  (func $number (result i32)  ;; the second word as a number; 0 when it is none
    (local $at i32) (local $n i32) (local $digit i32)
    (if (call $args_sizes (i32.const 0) (i32.const 4)) (then (return (i32.const 0))))
    (if (i32.or (i32.ne (i32.load (i32.const 0)) (i32.const 2))
                (i32.gt_u (i32.load (i32.const 4)) (i32.const 60000)))
      (then (return (i32.const 0))))
    (if (call $args (i32.const 256) (i32.const 1024)) (then (return (i32.const 0))))
    (local.set $at (i32.load (i32.const 260)))
    (loop $next
      (if (i32.eqz (i32.load8_u (local.get $at))) (then (return (local.get $n))))
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (if (i32.or (i32.gt_u (local.get $digit) (i32.const 9)) (i32.gt_u (local.get $n) (i32.const 10000000)))
        (then (return (i32.const 0))))
      (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10)) (local.get $digit)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))
    (unreachable))

  (func $before (param $n i32) (param $after i32)  ;; puts a number and a character before the text
    (global.set $end (i32.sub (global.get $end) (i32.const 1)))
    (i32.store8 (global.get $end) (local.get $after))
    (loop $next
      (global.set $end (i32.sub (global.get $end) (i32.const 1)))
      (i32.store8 (global.get $end) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (br_if $next (local.get $n))))

  (func (export "_start")
    (local $n i32) (local $i i32) (local $j i32) (local $count i32) (local $largest i32)
    (local.set $n (call $number))
    (if (i32.or (i32.lt_u (local.get $n) (i32.const 2)) (i32.gt_u (local.get $n) (i32.const 100000000)))
      (then (call $exit (i32.const 2))))
    ;; One byte for each number, from 131072 on: 0 until it is seen to be a multiple.
    (if (i32.eq (memory.grow (i32.div_u (i32.add (local.get $n) (i32.const 65536)) (i32.const 65536)))
                (i32.const -1))
      (then (call $exit (i32.const 3))))
    (local.set $i (i32.const 2))
    (loop $each
      (if (i32.eqz (i32.load8_u offset=131072 (local.get $i)))
        (then
          (local.set $count (i32.add (local.get $count) (i32.const 1)))
          (local.set $largest (local.get $i))
          (if (i32.le_u (local.get $i) (i32.const 10000))
            (then
              (local.set $j (i32.mul (local.get $i) (local.get $i)))
              (block $done
                (loop $multiples
                  (br_if $done (i32.gt_u (local.get $j) (local.get $n)))
                  (i32.store8 offset=131072 (local.get $j) (i32.const 1))
                  (local.set $j (i32.add (local.get $j) (local.get $i)))
                  (br $multiples)))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $each (i32.le_u (local.get $i) (local.get $n))))
    (call $before (local.get $largest) (i32.const 10))
    (call $before (local.get $count) (i32.const 32))
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 17) (i32.const 1)
              (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8))
      (then (call $exit (i32.const 4))))
    (i32.store (i32.const 48) (global.get $end))
    (i32.store (i32.const 52) (i32.sub (i32.const 200) (global.get $end)))
    (if (call $write (i32.load (i32.const 8)) (i32.const 48) (i32.const 1) (i32.const 56))
      (then (call $exit (i32.const 4))))))
